use super::*;
use crate::structures::PERSON_KEYPOINTS;

const BLACK: Color = [0, 0, 0];

fn black(width: usize, height: usize) -> RgbImage {
    RgbImage::new(width, height, vec![0; width * height * 3])
}

fn pixel(image: &RgbImage, x: usize, y: usize) -> Color {
    let at = (y * image.width + x) * 3;
    [image.data[at], image.data[at + 1], image.data[at + 2]]
}

fn painted(image: &RgbImage) -> Vec<(usize, usize)> {
    let all = (0..image.height).flat_map(|y| (0..image.width).map(move |x| (x, y)));
    all.filter(|&(x, y)| pixel(image, x, y) != BLACK).collect()
}

#[test]
fn colors_are_the_originals_in_rgb() {
    // torch: (label * tensor([2**25 - 1, 2**15 - 1, 2**21 - 1])) % 255, in BGR
    assert_eq!(
        compute_colors_for_labels(&[0, 1, 2, 18, 80]),
        [[0, 0, 0], [31, 127, 1], [62, 254, 2], [48, 246, 18], [185, 215, 80],]
    );
}

#[test]
fn boxes_have_a_border_of_one_pixel() {
    let mut image = black(20, 10);
    draw_box(&mut image, [2.9, 1.2, 6.7, 4.0], [255, 0, 0]);
    let expected: Vec<_> = (1..5)
        .flat_map(|y| (2..7).map(move |x| (x, y)))
        .filter(|&(x, y)| x == 2 || x == 6 || y == 1 || y == 4)
        .collect();
    assert_eq!(painted(&image), expected);
    assert_eq!(pixel(&image, 2, 1), [255, 0, 0]);
    // outside of the image, inverted, larger than the image
    for corners in [[-5.0, -5.0, 50.0, 50.0], [5.0, 5.0, 2.0, 2.0], [100.0, 100.0, 120.0, 120.0]] {
        draw_box(&mut image, corners, [0, 255, 0]);
    }
}

#[test]
fn outlines_are_three_pixels_wide() {
    let mut image = black(30, 30);
    let inside = |x: usize, y: usize| {
        (5..25).contains(&x) && (5..25).contains(&y) && !((12..18).contains(&x) && (12..18).contains(&y))
    };
    let mask: Vec<bool> = (0..900).map(|i| inside(i % 30, i / 30)).collect();
    draw_mask_outline(&mut image, &mask, [0, 0, 255]);
    let row: Vec<usize> = painted(&image).into_iter().filter(|(_, y)| *y == 15).map(|(x, _)| x).collect();
    assert_eq!(row, [4, 5, 6, 10, 11, 12, 17, 18, 19, 23, 24, 25]);
    // the whole image: its edge
    let mut image = black(8, 8);
    draw_mask_outline(&mut image, &[true; 64], [0, 0, 255]);
    assert_eq!(painted(&image).len(), 64 - 16);
}

#[test]
fn labels_stay_inside_of_the_image() {
    let ink = |x: f32, y: f32| {
        let mut image = RgbImage::new(120, 60, vec![90; 120 * 60 * 3]);
        draw_label(&mut image, (x, y), "dog: 0.99");
        let changed: Vec<_> = (0..60)
            .flat_map(|y| (0..120).map(move |x| (x, y)))
            .filter(|&(x, y)| pixel(&image, x, y)[0] > 150)
            .collect();
        assert!(changed.len() > 40, "{} bright pixels", changed.len());
        let xs = changed.iter().map(|(x, _)| *x);
        let ys = changed.iter().map(|(_, y)| *y);
        (xs.clone().min().expect("ink"), xs.max().expect("ink"), ys.clone().min().expect("ink"), ys.max().expect("ink"))
    };
    let (left, _, top, bottom) = ink(20.0, 40.0);
    assert!((20..26).contains(&left) && top > 20 && bottom < 42, "above its point: {left} {top} {bottom}");
    let (_, _, top, bottom) = ink(20.0, 0.0);
    assert!(top > 0 && bottom < 24, "below its point at the upper edge: {top} {bottom}");
    let (_, right, _, _) = ink(115.0, 40.0);
    assert!(right < 119, "at the right edge: {right}");
    ink(-30.0, 200.0);
}

#[test]
fn keypoints_that_are_not_sure_are_not_drawn() {
    let mut keypoints = vec![(10.0, 10.0, 0.0); 17];
    let mut image = black(40, 40);
    draw_keypoints(&mut image, &keypoints, &PERSON_KEYPOINTS);
    assert!(painted(&image).is_empty());
    keypoints[0] = (10.0, 10.0, 5.0);
    keypoints[1] = (30.0, 10.0, 5.0);
    draw_keypoints(&mut image, &keypoints, &PERSON_KEYPOINTS);
    let drawn = painted(&image);
    assert!(drawn.contains(&(10, 10)) && drawn.contains(&(20, 10)) && drawn.contains(&(30, 10)));
    assert!(drawn.iter().all(|&(_, y)| (5..=15).contains(&y)));
}
