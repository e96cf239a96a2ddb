"""The steps of the story that `rfx.pipeline` tells, each with its cache, its progress and its
checks."""
