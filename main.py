"""The command line: `python main.py {fit,validate,test,predict,inspect,merge} --config FILE`."""

from eomt.cli import main

if __name__ == "__main__":
    main()
