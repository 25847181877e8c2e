"""Documents of Pallet's own API calls, those under ``/pallet``."""
