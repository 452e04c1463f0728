from chatlab.cli import main

main()
