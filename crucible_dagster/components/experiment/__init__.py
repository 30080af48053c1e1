"""`ExperimentComponent`: an experiment in a `defs.yaml`."""
