from minigtn.cli import main

main()
