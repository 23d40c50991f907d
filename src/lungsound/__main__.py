"""python -m lungsound"""

from lungsound.app.cli import main

main()
