"""The conversion of samples: uploads, remote writes and collections; pure."""
