//! Mutated bodies: what is refused takes no more memory than it brings, what is not means what it says.

use super::{announced, mutate, peak};
use crate::value::Type;
use crate::wire::announced::Announced;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::kv::{KeyList, Whole};
use crate::wire::lists::{KeyMemory, Keys};
use crate::wire::{codec, keys};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn mutated_announcements_are_refused_or_rise() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let frame = codec::encode(&announced()).unwrap();
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..200_000 {
        let mut frame = frame.clone();
        mutate(&mut frame, &mut rng);
        let Ok(announced) = codec::decode::<Vec<Announced>>(&frame) else { continue };
        for announced in announced {
            let (peak, touches) = peak(|| announced.decode());
            assert!(peak <= (16 << 10) + 8 * frame.len(), "{peak} bytes for a frame of {}", frame.len());
            match touches {
                Ok(touches) => {
                    taken += 1;
                    assert!(touches.groups().iter().all(|group| group.keys.is_sorted_by(|a, b| a < b)));
                    let again = Announced::encode(announced.clock, &touches).unwrap().decode().unwrap();
                    assert_eq!(again, touches);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && taken > 1000, "{refused} refused, {taken} taken");
}

#[test]
fn mutated_bodies_are_refused_or_mean_what_they_say() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let bodies: Vec<(KeyList, Vec<u8>)> = [3u32, 300, 70_000, 1 << 24]
        .into_iter()
        .map(|gap| {
            let keys: Vec<u32> = (0..200).map(|i| i * gap.min(u32::MAX / 200) + rng.random_range(0..3)).collect();
            let mut body = BodyWriter::default();
            let list = body.keys(keys::hash(&keys), &keys).unwrap();
            body.values_mut::<f32>(keys.len()).fill(1.5);
            (list, body.finish().to_vec())
        })
        .collect();
    let mut whole = 0;
    for round in 0..1_000_000 {
        let (list, mut bytes) = bodies.choose(&mut rng).expect("bodies").clone();
        let KeyList::Inline { hash, mut count, bytes: mut len } = list else { panic!("not inline") };
        if round % 10 > 0 {
            mutate(&mut bytes, &mut rng);
        }
        match round % 50 {
            7 => count = rng.random(),
            8 => len = rng.random(),
            _ => {}
        }
        let (allowed, memory) = (bytes.len() * 16 + (16 << 10), KeyMemory::new(0));
        let (peak, result) = peak(|| -> crate::Result<_> {
            let mut body = BodyReader::new(bytes.into());
            let keys = memory.resolve(KeyList::Inline { hash, count, bytes: len }, &mut body)?;
            let values = body.values(Type::F32, count as usize)?;
            body.end()?;
            Ok((keys, values))
        });
        assert!(peak <= allowed, "{peak} bytes, {allowed} allowed");
        if let Ok((Some(Keys::List(keys)), values)) = result {
            whole += 1;
            assert!(keys.is_sorted_by(|a, b| a < b) && keys::hash(&keys) == hash);
            assert_eq!((keys.len(), values.get().len()), (count as usize, count as usize));
        }
    }
    assert!(whole > 1000, "{whole}");
}

#[test]
fn mutated_parts_of_lists_are_refused_or_are_some_of_the_list() {
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let list: Vec<u32> = (0..300).map(|i| 7 * i).collect();
    let (memory, hash) = (KeyMemory::default(), keys::hash(&list));
    let mut body = BodyWriter::default();
    let inline = body.keys(hash, &list).unwrap();
    memory.resolve(inline, &mut BodyReader::new(body.finish())).unwrap().unwrap();
    let mut whole = 0;
    for round in 0..300_000u32 {
        let mut bits: Vec<u8> = (0..38).map(|_| rng.random()).collect();
        bits[37] &= 0b1111;
        let mut count = bits.iter().map(|byte| byte.count_ones()).sum();
        let mut of = match round % 2 {
            0 => Whole::Known { hash, count: 300 },
            _ => Whole::Range { start: 9, count: 300 },
        };
        if round % 10 > 0 {
            mutate(&mut bits, &mut rng);
        }
        let (Whole::Known { count: many, .. } | Whole::Range { count: many, .. }) = &mut of;
        match round % 50 {
            7 | 8 => count = rng.random(),
            17 | 18 => *many = rng.random(),
            _ => {}
        }
        let allowed = 4 * 8 * bits.len() + (16 << 10);
        let (peak, found) = peak(|| {
            let mut body = BodyWriter::default();
            body.bytes(&bits);
            memory.resolve(KeyList::Part { of, count }, &mut BodyReader::new(body.finish()))
        });
        assert!(peak <= allowed, "{peak} bytes, {allowed} allowed");
        if let Ok(Some(Keys::List(found))) = found {
            whole += 1;
            assert!(found.len() == count as usize && found.is_sorted_by(|a, b| a < b));
            let is_of = |key: &u32| if round % 2 == 0 { list.contains(key) } else { (9..309).contains(key) };
            assert!(found.iter().all(is_of));
        }
    }
    assert!(whole > 1000, "{whole}");
}
