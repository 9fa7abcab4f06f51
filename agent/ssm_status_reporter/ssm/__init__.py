"""The SSM API: from a report to a call, from an answer to an outcome.

Pure: ``request`` (what a call says), ``codes`` (what each error code means), ``text`` (strange
text made fit to print), ``reply`` (what a reply holds), ``answer`` (what it means).
Effects: ``model`` (the SDK's data files), ``credentials`` (the keys a call is signed with), ``client`` (the call).
"""
