"""Whether an address answers with 200: `health.py URL`. The images have neither curl nor wget."""

import sys
import urllib.request

try:
    with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:  # noqa: S310 - the image says which
        sys.exit(0 if answer.status == 200 else 1)
except OSError as error:  # refused, too slow, or an HTTP error
    sys.exit(f"{sys.argv[1]}: {error}")
