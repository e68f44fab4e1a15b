"""The page at `/` of the local modes: watch an order travel, break something, and see it heal. See docs/page.md."""
