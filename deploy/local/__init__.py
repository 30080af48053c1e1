"""`make up`: the services of compose.yaml as processes of this machine, supervised by supervisord."""
