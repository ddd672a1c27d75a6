"""What a course adds to the lessons: exercise checks and explorers."""
