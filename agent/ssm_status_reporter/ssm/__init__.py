"""The SSM API: from a report to a call, from an answer to an outcome."""
