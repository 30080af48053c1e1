"""What evaluations of models need beyond tests: numbers per item from several answers, and preferences."""
