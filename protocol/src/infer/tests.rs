//! Tests of the inference protocol's types.

use super::*;

#[test]
fn nested_and_flat_json_are_the_same() {
    let nested: JsonData = serde_json::from_str("[[1, 2.5], [3, -4]]").unwrap();
    let flat: JsonData = serde_json::from_str("[1, 2.5, 3, -4]").unwrap();
    assert_eq!(nested, flat);
    let tensor = Tensor::from_json("x", DataType::Fp32, vec![2, 2], &nested).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), [1.0, 2.5, 3.0, -4.0]);
    assert_eq!(
        serde_json::to_string(&tensor.to_json().unwrap()).unwrap(),
        "[1.0,2.5,3.0,-4.0]"
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let data: JsonData = serde_json::from_str("[1, 300]").unwrap();
    let error = Tensor::from_json("x", DataType::Uint8, vec![2], &data).unwrap_err();
    assert_eq!(error.to_string(), "tensor 'x': element 1 does not fit UINT8");
    let error = Tensor::from_json("x", DataType::Int64, vec![3], &data).unwrap_err();
    assert_eq!(error.to_string(), "tensor 'x': shape [3] needs 3 elements, 2 are given");
    let huge = Tensor::from_raw("x", DataType::Int8, vec![u64::MAX, 2], vec![]);
    assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
}

#[test]
fn a_tensor_that_lies_about_its_shape_is_not_read() {
    let mut tensor = Tensor::from_f32("x", vec![2], &[1.0, 2.0]).unwrap();
    let honest = crate::codec::to_vec(&tensor).unwrap();
    assert_eq!(crate::codec::from_slice::<Tensor>(&honest, 256).unwrap(), tensor);
    tensor.shape = vec![1 << 40];
    let lying = crate::codec::to_vec(&tensor).unwrap();
    assert!(crate::codec::from_slice::<Tensor>(&lying, 256).is_err());
}

#[test]
fn large_integers_and_text_survive() {
    let data: JsonData = serde_json::from_str("[9223372036854775807, -1]").unwrap();
    let tensor = Tensor::from_json("x", DataType::Int64, vec![2], &data).unwrap();
    assert_eq!(tensor.to_i64().unwrap(), [i64::MAX, -1]);
    let words = vec!["a".to_owned(), String::new(), "é".to_owned()];
    let tensor = Tensor::from_strings("w", vec![3], &words).unwrap();
    assert_eq!(tensor.to_strings().unwrap(), words);
    assert!(Tensor::from_raw("w", DataType::Bytes, vec![1], vec![9, 0, 0, 0, 1]).is_err());
}
