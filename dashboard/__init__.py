"""The dashboard: watches runs, in a page, in a terminal or in pictures; it can come and go, and slows no round."""
