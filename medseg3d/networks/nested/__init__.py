"""Networks whose nodes read several scales."""
