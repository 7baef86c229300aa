"""The method, one file an idea; ekg.pipeline runs them in order."""
