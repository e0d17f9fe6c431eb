use super::*;

fn square() -> SegmentationMask {
    SegmentationMask::from_polygons(vec![vec![vec![2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]], (20, 16))
}

#[test]
fn mask_targets_are_those_of_crop_and_resize_in_both_modes() {
    let boxes = Tensor::from_slice(&[1.5f32, 2.25, 13.0, 14.5]).view([1, 4]);
    for mask in [square(), square().convert(MaskMode::Mask).unwrap()] {
        let fast = mask.crop_and_resize(&boxes, (14, 14), PolygonCrop::Clamped).unwrap();
        let slow = mask.crop([1.5, 2.25, 13.0, 14.5]).and_then(|m| m.resize((14, 14)));
        let slow = slow.and_then(|m| m.get_mask_tensor()).unwrap();
        assert!(fast.get(0).equal(&slow));
        assert!(slow.sum(Kind::Int64).int64_value(&[]) > 50);
    }
}

#[test]
fn mask_targets_need_one_box_per_instance_with_an_extent() {
    let boxes = |numbers: &[f32]| Tensor::from_slice(numbers).view([-1, 4]);
    let error = |numbers: &[f32]| square().crop_and_resize(&boxes(numbers), (7, 7), PolygonCrop::Clamped).is_err();
    assert!(error(&[0.0, 0.0, 4.0, 4.0, 0.0, 0.0, 4.0, 4.0]));
    assert!(error(&[3.0, 3.0, 3.0, 9.0]));
    assert!(error(&[9.0, 3.0, 3.0, 9.0]));
    assert!(!error(&[3.0, 3.0, 4.0, 9.0]));
}

#[test]
fn the_two_crops_differ_only_where_the_box_leaves_the_image() {
    let at = |r#box, rule| square().crop_by(r#box, rule).unwrap().polygon_instances().unwrap()[0].clone();
    let inside = [3.0, 4.0, 10.0, 12.0];
    assert_eq!(at(inside, PolygonCrop::Clamped), at(inside, PolygonCrop::Unclamped));
    let outside = [-3.0, 4.0, 10.0, 12.0];
    assert_ne!(at(outside, PolygonCrop::Clamped), at(outside, PolygonCrop::Unclamped));
}

#[test]
fn flipped_pixels_are_those_of_the_flipped_polygon() {
    let pixels = |m: SegmentationMask| m.get_mask_tensor().unwrap();
    let by_pixels = square().convert(MaskMode::Mask).unwrap().transpose(Flip::LeftRight);
    let by_polygon = square().transpose(Flip::LeftRight);
    let (a, b) = (pixels(by_pixels), pixels(by_polygon));
    let moved = a.ne_tensor(&b).sum(Kind::Int64).int64_value(&[]);
    assert!(moved <= 2 * 10, "{moved} pixels differ, more than the two vertical edges");
}

#[test]
fn no_instances_are_no_error() {
    let none = SegmentationMask::from_rle(&[], (6, 4)).unwrap();
    assert_eq!(none.resize((3, 2)).unwrap().get_mask_tensor().unwrap().size(), [0, 2, 3]);
    assert_eq!(none.convert(MaskMode::Poly).unwrap().len(), 0);
    let boxes = Tensor::zeros([0, 4], (Kind::Float, tch::Device::Cpu));
    assert_eq!(none.crop_and_resize(&boxes, (7, 7), PolygonCrop::Clamped).unwrap().size(), [0, 7, 7]);
    assert_eq!(none.select(&Tensor::zeros([0], (Kind::Int64, tch::Device::Cpu))).unwrap().len(), 0);
}
