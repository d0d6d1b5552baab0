"""The model: stock classes of transformers at a tiny scale, and a byte-level tokenizer for short answers.

`LlavaForConditionalGeneration` = a LeViT tower (four 3x3 convolutions, two layers of attention over the
4x4 patches of a crop) + Llava's projector + an OLMoE decoder of 16 blocks and 16 experts. LeViT and
not SigLIP, because SigLIP's patches do not overlap and it has no place for a convolutional stem.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller import crops
from controller.knobs import SPARSE

BLOCKS, EXPERTS, TOP_K = 16, 16, 8
WIDTH, EXPERT_WIDTH, HEADS = 128, 32, 4
TOP_KS = (4, 6, 8, 10, 12)
DEPTHS = (8, 10, 12, 14, 16)
"""Settings of the knobs that it is trained and measured at."""
VOCABULARY = 1024
IMAGE, END, PAD, ANSWER = "<|image|>", "<|end|>", "<|pad|>", "<|answer|>"


def tokenizer() -> Any:
    """Byte-level BPE over questions and answers; digits stay apart, so a number is read digit by digit."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from zoo.molmoe_tiny import corpus
    from zoo.molmoe_tiny.questions import SETS, every_word

    texts = [f" {words}" for words in every_word()] * 4
    for name in SETS:
        for number in range(300):
            for asked in corpus.sample("train", name, number).questions[:4]:
                texts += [f" {asked.text}", f" {asked.answer}"]
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}|[^\s\p{L}\p{N}]|\s"), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, END, ANSWER, IMAGE],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip


def asked(tok: Any, question: str) -> list[int]:
    """Token ids of a question as the model expects it after the image: its words, then the answer mark."""
    ids: list[int] = tok(f" {question}")["input_ids"]
    return [*ids, tok.convert_tokens_to_ids(ANSWER)]


def answered(tok: Any, answer: str) -> list[int]:
    """Token ids of an answer with its end."""
    ids: list[int] = tok(f" {answer}")["input_ids"]
    return [*ids, tok.eos_token_id]


def config(tok: Any) -> Any:
    """Configuration; `down_ops` keeps all patches of the tower, and `hidden_size` is what Llava projects from."""
    from transformers import LevitConfig, LlavaConfig, OlmoeConfig

    tower = 128
    vision = LevitConfig(
        image_size=crops.CROP * crops.ENLARGED, num_channels=crops.CHANNELS, hidden_sizes=(tower, tower), depths=(2,),
        num_attention_heads=(4,), key_dim=(16,), mlp_ratio=(2,), attention_ratio=(2,),
        down_ops=[[""]], hidden_size=tower, output_hidden_states=True,
    )  # fmt: skip
    text = OlmoeConfig(
        vocab_size=len(tok), hidden_size=WIDTH, intermediate_size=EXPERT_WIDTH, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_experts=EXPERTS, num_experts_per_tok=TOP_K, max_position_embeddings=512,
        tie_word_embeddings=True, initializer_range=0.05, pad_token_id=tok.pad_token_id, bos_token_id=None,
        eos_token_id=tok.eos_token_id,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tok.convert_tokens_to_ids(IMAGE),
        image_seq_length=crops.TOKENS, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip


def new(tok: Any) -> Any:
    """An untrained model.

    Experts start louder, because routing without renormalisation divides each by 16. Routers are drawn once and stay
    (`JITTER` in paths.py says why), with weights that differ little, so that none of the chosen is in vain. Attention
    starts by looking for what is alike and copying it, as trained attention does (Trockman and Kolter 2023, "Mimetic
    initialization of self-attention layers", arXiv:2305.09828).
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    made = LlavaForConditionalGeneration(config(tok))
    with torch.no_grad():
        for block in made.model.language_model.layers:
            block.mlp.experts.down_proj.mul_(3)
            block.mlp.gate.weight.normal_(std=0.3 * WIDTH**-0.5)
            attention = block.self_attn
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)
        made.get_input_embeddings().weight.mul_(2)
    made.generation_config.eos_token_id = tok.eos_token_id
    made.generation_config.pad_token_id = tok.pad_token_id
    return made


def load(folder: Path) -> tuple[Any, Any]:
    """The trained model and its tokenizer, ready to answer: float32, sparse experts."""
    import torch
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    made = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    made.model.language_model.set_experts_implementation(SPARSE)
    return made.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)
