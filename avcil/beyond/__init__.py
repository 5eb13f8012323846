"""Beyond the paper's limits: a study a file, their settings (beyond.yaml), answers and figures. Only pages need it."""
