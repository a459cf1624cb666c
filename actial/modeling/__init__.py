"""The vision-language model and shared-prefix packing: one primitive scores tokens for every loss."""
