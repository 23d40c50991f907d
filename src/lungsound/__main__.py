"""python -m lungsound"""

from lungsound.cli.main import main

main()
