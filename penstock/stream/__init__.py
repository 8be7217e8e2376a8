"""The real-time path: devices → gateway → log → indexer → store, and a page to look at it."""
