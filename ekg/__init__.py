"""The method, one file per idea; ekg.pipeline runs it in order."""
