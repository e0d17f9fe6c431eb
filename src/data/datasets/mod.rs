//! Datasets: what an image is and what is in it.
