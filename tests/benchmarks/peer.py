"""The peer: boto3 in one loop, one call a report, retries off. Prints its CPU seconds for so many calls."""

import datetime as dt
import resource
import sys

import boto3
from botocore.config import Config


def main(port: int, calls: int) -> None:
    """Call, then say what it cost."""
    client = boto3.client(
        "ssm",
        region_name="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="AKIDBENCH",
        aws_secret_access_key="bench",
        config=Config(retries={"total_max_attempts": 1}),
    )

    def call(number: int) -> None:
        client.update_association_status(
            InstanceId="i-0123456789abcdef0",
            Name=f"Bench-{number % 100}",
            AssociationStatus={
                "Name": "Success",
                "Date": dt.datetime.now(dt.UTC),
                "Message": f"run {number}",
                "AdditionalInfo": '{"reporter":"boto3"}',
            },
        )

    call(0)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for number in range(calls):
        call(number)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
