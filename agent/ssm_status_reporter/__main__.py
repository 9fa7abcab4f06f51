"""``python -m ssm_status_reporter``: the command, wherever its script is."""

from ssm_status_reporter.cli.main import main

if __name__ == "__main__":
    main(prog_name="ssm-status-reporter")
