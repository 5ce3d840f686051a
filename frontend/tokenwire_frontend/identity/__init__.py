"""Who a caller is: API keys, signed tokens, and vouchers of other frontends."""
