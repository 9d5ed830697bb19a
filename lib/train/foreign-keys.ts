/** Maps the settings of other trainers (Transformers, TRL, axolotl, LLaMA-Factory, torchtune) to recipe keys. */
import type { RecipeKey } from './recipe-schema.js'

/** Keys with exactly the meaning of a recipe key; accepted in its place. */
export const aliases: Readonly<Record<string, RecipeKey>> = {
  lr: 'learning_rate',
  num_train_epochs: 'epochs',
  num_epochs: 'epochs',
  output_dir: 'save_path',
  data: 'data_path',
  data_file: 'data_path',
  train_file: 'data_path',
  model_name_or_path: 'model_path',
  base_model: 'model_path',
  tokenizer_name_or_path: 'tokenizer_path',
  max_seq_length: 'max_length',
  max_seq_len: 'max_length',
  sequence_len: 'max_length',
  cutoff_len: 'max_length',
  val_set_size: 'validation_size',
  val_size: 'validation_size',
  eval_steps: 'validation_every',
  logging_steps: 'log_every',
  logging_dir: 'log_path',
  save_steps: 'checkpoint_every',
  save_total_limit: 'keep_last',
  run_name: 'name',
  resume_from_checkpoint: 'resume',
  adam_eps: 'adam_epsilon',
  num_gpus: 'gpus',
}

const batch =
  'use {batch_size}, the instances of one optimizer step over all processes: per-device batch × accumulation steps × processes'
const bfloat16 = 'use {dtype} (auto is bfloat16 where the device has it, with float32 master weights)'
const lora = 'all weights are trained, as LoRA and other adapters are not offered: leave it out'
const reports = 'logs, TensorBoard files, and a report are always written to {log_path}: leave it out'
const always = 'it is always so: leave it out'
const memory = 'use {max_tokens_per_micro_batch} to limit memory; blocks recompute what is cheap: leave it out'
const ranks = 'use {gpus} or {ranks} for the processes of one machine'
const validation = 'use {validation_every}, in optimizer steps'
const checkpoints = 'use {checkpoint_every}, in optimizer steps'

/** Other keys, and their replacements; recipe keys are in braces. */
const advice: readonly [keys: string, advice: string][] = [
  ['per_device_train_batch_size micro_batch_size gradient_accumulation_steps per_device_batch_size', batch],
  ['train_batch_size per_gpu_train_batch_size gradient_accumulation global_batch_size', batch],
  ['per_device_eval_batch_size eval_batch_size', 'use {max_tokens_per_micro_batch}, which holds for validation too'],
  ['bf16 bf16_full_eval torch_dtype mixed_precision precision pure_bf16', bfloat16],
  ['fp16 tf32 float16', 'training is in bfloat16 or float32: use {dtype}'],
  [
    'lora_r lora_alpha lora_dropout lora_target_modules lora_target_linear lora_rank lora_target adapter use_lora',
    lora,
  ],
  ['use_peft peft lora_modules_to_save load_in_4bit load_in_8bit qlora use_dora finetuning_type', lora],
  [
    'report_to wandb_project wandb_entity wandb_name wandb_run_id wandb_watch use_wandb wandb mlflow plot_loss',
    reports,
  ],
  ['gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing', memory],
  ['eval_strategy evaluation_strategy evals_per_epoch do_eval eval_every', validation],
  ['save_strategy saves_per_epoch save_every checkpoint_steps', checkpoints],
  ['logging_strategy logging_first_step', 'use {log_every}, in optimizer steps'],
  ['lr_scheduler_type scheduler', 'use {lr_scheduler} (warmup_decay, constant, or cosine) and {warmup_type}'],
  ['cosine_min_lr_ratio min_lr lr_scheduler_kwargs', 'use {min_learning_rate}'],
  ['warmup warmup_proportion', 'use {warmup_ratio} or {warmup_steps}'],
  ['optim optimizer optim_args', 'AdamW is the only optimizer: leave it out'],
  ['beta1 beta2 adam_betas betas', 'use {adam_beta1} and {adam_beta2}'],
  ['wd decay', 'use {weight_decay}'],
  ['max_norm clip_grad_norm grad_clip gradient_clipping gradient_clip_val', 'use {max_grad_norm}'],
  ['datasets dataset_name dataset_path train_data train_dataset data_files', 'use {data_path} with one file'],
  ['dataset_dir dataset_prepared_path', 'use {data_path} with one file; nothing is prepared ahead'],
  ['test_datasets eval_dataset validation_file eval_file', 'use {validation_size}, which holds out part of the data'],
  ['max_train_steps steps total_steps max_iters', 'use {max_steps}'],
  ['sample_packing packing pad_to_sequence_len group_by_length eval_sample_packing padding_free', always],
  ['flash_attention flash_attn xformers_attention sdp_attention attn_implementation use_flash_attention_2', always],
  ['use_liger_kernel torch_compile', always],
  ['train_on_inputs mask_prompt train_on_prompt', 'only answers are learned: leave it out'],
  ['overwrite_output_dir', 'use {overwrite}, which deletes the checkpoints that are there'],
  ['auto_resume_from_checkpoints', 'use {resume} auto'],
  ['do_train do_predict strict local_rank is_llama_derived_model model_type tokenizer_type stage', 'leave it out'],
  ['tokenizer_use_fast use_fast_tokenizer trust_remote_code remove_unused_columns special_tokens', 'leave it out'],
  ['dataloader_num_workers preprocessing_num_workers dataloader_pin_memory dataset_processes', 'leave it out'],
  ['save_safetensors', 'models are always saved as safetensors: leave it out'],
  ['push_to_hub hub_model_id hub_token hub_strategy', 'push the model when it is trained: openalpaca push'],
  ['deepspeed deepspeed_config', 'name the file on the command line: --deepspeed FILE'],
  ['recipe config', 'name the file on the command line: --recipe FILE'],
  ['fsdp fsdp_config ddp_find_unused_parameters', 'use {zero_stage}'],
  ['nproc_per_node num_processes n_gpu devices nproc num_gpu', ranks],
  ['template prompt_template chat_template', 'the prompt is always that of Alpaca: leave it out'],
  ['early_stopping_patience load_best_model_at_end metric_for_best_model', 'it is not offered: leave it out'],
  ['neftune_noise_alpha label_smoothing_factor', 'it is not offered: leave it out'],
]

const adviceList = advice.flatMap(([keys, text]) => keys.split(' ').map((key) => [key, text] as const))
const adviceOf = new Map(adviceList)
/** Known keys of other trainers. */
export const adviceKeys = [...Object.keys(aliases), ...adviceList.map(([key]) => key)]

/**
 * Advice for another trainer's key; undefined for an unknown one.
 * @param spell formats a recipe key for the reader, such as `--batch_size`
 */
export function adviceFor(key: string, spell: (key: string) => string): string | undefined {
  const ours = aliases[key]
  const text = Object.hasOwn(aliases, key) ? `use {${ours}}` : adviceOf.get(key)
  return text?.replace(/\{(\w+)\}/g, (_, name: string) => spell(name))
}
