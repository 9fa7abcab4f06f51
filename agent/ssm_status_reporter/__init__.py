"""Delivers the status of SSM association runs to AWS Systems Manager State Manager.

The one-page tour is ARCHITECTURE.md: a *result* comes in from a source, becomes a *report* for one
association, the *outbox* decides durably whether it is news, and the *reporter* delivers what is.
"""

__version__ = "0.1.0"
