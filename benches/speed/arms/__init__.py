"""The programs that the rows start as processes of their own: reference servers, bare calls, a stamping worker."""
