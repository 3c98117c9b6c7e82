"""The application without a front end: from a request to a folder of layers."""
