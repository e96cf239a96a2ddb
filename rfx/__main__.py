from rfx.cli.app import main

main()
