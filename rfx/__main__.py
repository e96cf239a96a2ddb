from rfx.cli import main

main()
