"""Work on other machines: calls that are sent to a cluster's nodes, heard from, and sent again where a worker has died."""
