-- The database of the replaced set-up after some weeks of use, run after supabase.sql by
-- `app_postgres`: its tables and trigger in the shape that they have in the field, and rows in
-- every state. Users are 00000000-0000-4000-8000-0000000000NN; the comments beside them say what
-- each is for.

create table public.evolution_instances (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique references public.profiles (id) on delete cascade,
  instance_name text not null unique,
  instance_status text not null default 'creating'
    check (instance_status in ('creating', 'disconnected', 'connecting', 'connected', 'error')),
  qr_code text,
  phone_number text,
  webhook_url text not null,
  last_qr_update timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  instance_token text
);

alter table public.evolution_instances
  enable row level security;

create policy "People read their instance"
  on public.evolution_instances
  for select
  to authenticated
  using (auth.uid() = user_id);

create policy "People change their instance"
  on public.evolution_instances
  for update
  to authenticated
  using (auth.uid() = user_id)
  with check (auth.uid() = user_id);

create table public.conversations (
  id uuid primary key default gen_random_uuid(),
  instance_id uuid not null references public.evolution_instances (id) on delete cascade,
  contact_phone text not null,
  unique (instance_id, contact_phone)
);

-- No default for request_id and status, nullable counters and times, the key to auth.users.
create table public.evolution_instance_creation_queue (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null unique references auth.users (id) on delete cascade,
  request_id uuid not null,
  status text not null check (status in ('pending', 'processing', 'completed', 'failed')),
  error_message text,
  retry_count integer default 0,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  processed_at timestamptz
);

create index idx_evolution_queue_status
  on public.evolution_instance_creation_queue (status, created_at);

alter table public.evolution_instance_creation_queue
  enable row level security;

create policy "The service works on the queue"
  on public.evolution_instance_creation_queue
  for all
  to service_role
  using (true)
  with check (true);

create policy "People read their queue row"
  on public.evolution_instance_creation_queue
  for select
  to authenticated
  using (auth.uid() = user_id);

-- The old function: queues again on conflict, and counts that as a retry.
create function public.handle_profile_evolution_instance()
returns trigger
language plpgsql
security definer
set search_path = public
as $$
begin
  insert into evolution_instance_creation_queue as queue (user_id, request_id, status)
  values (new.id, gen_random_uuid(), 'pending')
  on conflict (user_id) do update
    set status = 'pending',
      retry_count = queue.retry_count + 1;
  return new;
end
$$;

create trigger on_profile_created_create_evolution_instance
  after insert on public.profiles
  for each row
  execute function public.handle_profile_evolution_instance();

insert into auth.users (id, email, raw_user_meta_data)
select
  format('00000000-0000-4000-8000-0000000000%s', lpad(number::text, 2, '0'))::uuid,
  format('user%s@example.org', number),
  jsonb_build_object('full_name', format('User %s', number))
from generate_series(1, 12) as number;

-- The trigger has queued all twelve. Now they get their histories, after noon, so that no run of
-- the tests straddles a day.
update public.evolution_instance_creation_queue as queue
set
  status = history.status,
  retry_count = history.retry_count,
  error_message = history.error_message,
  created_at = date_trunc('day', now()) - make_interval(days => history.days, hours => -12, mins => -history.number),
  updated_at = now() - history.quiet,
  processed_at = case
    when history.status in ('completed', 'failed') then now() - make_interval(days => history.days)
  end
from (
  values
    -- three days ago: three of four
    (1, 'completed', 0, null, 3, interval '3 days'),
    (2, 'completed', 2, null, 3, interval '3 days'),
    (3, 'completed', null, null, 3, interval '3 days'),
    (4, 'failed', 3, 'Evolution API error: 401', 3, interval '3 days'),
    -- two days ago: two of three
    (5, 'completed', 0, null, 2, interval '2 days'),
    (6, 'completed', 0, null, 2, interval '2 days'),
    (7, 'pending', 1, 'timeout', 2, interval '2 days'),
    -- stuck, and at work
    (8, 'processing', 1, null, 5, interval '20 minutes'),
    (9, 'processing', 0, null, 5, interval '1 minute'),
    -- too old for the report, and for the clean-up
    (10, 'completed', 0, null, 40, interval '40 days'),
    -- out of budget
    (11, 'failed', 3, 'Evolution API error: 500', 6, interval '6 days'),
    -- queued, but the profile is gone
    (12, 'pending', 0, null, 6, interval '6 days')
) as history (number, status, retry_count, error_message, days, quiet)
where queue.user_id = format('00000000-0000-4000-8000-0000000000%s', lpad(history.number::text, 2, '0'))::uuid;

delete from public.profiles
where id = '00000000-0000-4000-8000-000000000012';

insert into public.evolution_instances (user_id, instance_name, instance_status, webhook_url, instance_token, created_at)
select
  queue.user_id,
  'user_' || queue.user_id,
  case when queue.user_id::text like '%1' then 'connected' else 'disconnected' end,
  'https://app.example.org/functions/v1/evolution-webhook',
  case when queue.user_id::text not like '%3' then 'a-token-of-the-api' end,
  queue.created_at
from public.evolution_instance_creation_queue as queue
where queue.status = 'completed';

insert into public.conversations (instance_id, contact_phone)
select
  id,
  '+33600000000'
from public.evolution_instances;
