"""A local SSM endpoint that answers this daemon's operations as the service documents them."""
