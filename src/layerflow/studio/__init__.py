"""The studio: a page, a job API and a queue around the pipeline. What a browser sends is checked in `uploads`."""
