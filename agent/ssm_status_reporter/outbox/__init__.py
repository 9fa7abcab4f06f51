"""The outbox: what is known of each association, durably, and what is still to be delivered."""
