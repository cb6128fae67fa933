"""Commands for stores: push, pull, list, promote, rollback, gc."""
