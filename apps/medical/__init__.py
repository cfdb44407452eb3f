"""Medical segmentation: Swin UNETR and others, from a folder of cases to label maps."""
