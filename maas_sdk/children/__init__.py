"""A process beside this one: ``process`` is the parent's half, ``job_loop`` the child's."""
