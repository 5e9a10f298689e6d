"""Networks on the convolutions of VGG-16."""
