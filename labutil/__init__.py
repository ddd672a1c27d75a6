"""What the workbook's notebooks share. Import modules from it: `from labutil import models, training`."""
