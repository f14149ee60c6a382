"""Where processes run: on this machine today; ssh, Slurm, Ray and Kubernetes text are files to come beside local.py."""
