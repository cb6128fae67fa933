"""Child processes: ``process`` is the parent's half, ``job_loop`` the child's."""
