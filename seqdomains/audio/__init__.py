"""Sound: sample codes, files, resampling, tasks. Empty until the audio work begins."""
