"""One thin module per box of dvc.yaml. `python -m stages.<stage> <data set>`.

Importing this package pins what would make two machines disagree in the last bits. It must therefore
come before NumPy, which `python -m stages.x` guarantees.
"""

from penstock.reproducible import pin_numerics

pin_numerics()
