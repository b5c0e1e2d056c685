"""The systems the paper's own is compared with, by the table in the method's page; one file each."""
