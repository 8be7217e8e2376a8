"""Views of conf/deploy/."""
