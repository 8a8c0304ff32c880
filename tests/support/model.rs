//! A saved model read by hand: the safetensors layout is eight bytes of length, a JSON header, then the numbers.

use std::path::Path;

/// The numbers of a model folder.
#[derive(Debug)]
pub struct Saved {
    pub weights: Vec<f64>,
    pub bias: f64,
    /// The tensors' file, byte by byte.
    pub bytes: Vec<u8>,
}

/// Reads `folder`.
pub fn read(folder: &Path) -> Saved {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("the model has tensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a JSON header");
    let tensor = |name: &str| -> Option<Vec<f64>> {
        let entry = header.get(name)?;
        assert_eq!(entry["dtype"], "F32");
        let offset = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().expect("an offset") as usize;
        let floats = bytes[offset(0)..offset(1)].chunks_exact(4);
        Some(floats.map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes")))).collect())
    };
    let weights = tensor("weights").expect("the model has weights");
    let bias = tensor("bias").map_or(0.0, |b| b[0]);
    Saved { weights, bias, bytes }
}
