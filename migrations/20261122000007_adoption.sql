-- Adoption: what stood in the database before Sluice came. It is written down once, by the first
-- migration; nothing of it is started without a person's word. May be run again at any time: what
-- was written down stays.

set local lock_timeout = '5s';

-- What the first migration found, a row for each user. Classes:
--   imported        an instance with a name of the user's own: kept, with name and token
--   unfinished      the same, but its status says that it never became ready
--   foreign-name    an instance whose name is not derived from its user: it may be another tenant's
--   pending         a queue row that waits, for longer than the old set-up's own next round
--   pending-spent   the same, with all its tries spent
--   pending-orphan  the same, of a user without a profile: nobody would see the instance
--   stuck           a queue row in `processing`
--   failed          a queue row in `failed`
--   gone            a completed queue row, and no instance
--   older-users     a profile, and nothing else
create table if not exists sluice.adoption (
  subject uuid primary key,
  class text not null
    check (class in ('imported', 'unfinished', 'foreign-name', 'pending', 'pending-spent', 'pending-orphan', 'stuck', 'failed',
      'gone', 'older-users')),
  instance_name text,
  retry_count integer,
  -- The row's own moment, which its user may have forged: shown, and decides nothing.
  made_at timestamptz,
  -- Intake starts no run for this user: the fence between old rows and new ones.
  held_back boolean not null,
  decision text check (decision in ('start', 'leave', 'allow', 'sql')),
  decided_at timestamptz,
  decided_by text
);

create index if not exists adoption_class on sluice.adoption (class, subject) where decision is null;
create index if not exists adoption_held_back on sluice.adoption (subject) where held_back;

-- The users of whom intake takes no queue row, whatever it says.
create or replace view sluice.held_back as
  select subject
  from sluice.adoption
  where held_back;

-- For the owner only: takes an instance over from the set-up before us, with name and token. A
-- create counts as claimed for it, so that a run reads back before it creates. Returns whether it
-- did: not where the user or the name has an instance already.
create or replace function sluice.import_instance(subject uuid, name text, shown jsonb)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  if exists (
    select from sluice.resource as own
    where own.subject = import_instance.subject::text
      and own.workflow = 'provision-instance'
  ) then
    return false;
  end if;
  insert into sluice.resource (name, subject, workflow, secret, exclusive_at, created_at, memory)
  values (
    import_instance.name,
    import_instance.subject::text,
    'provision-instance',
    coalesce(nullif(shown ->> 'instance_token', ''), gen_random_uuid()::text),
    now(),
    coalesce((shown ->> 'created_at')::timestamptz, now()),
    jsonb_strip_nulls(
      jsonb_build_object(
        'imported', true,
        'status', case
          when shown ->> 'instance_status' in ('creating', 'disconnected', 'connecting', 'connected', 'error')
            then shown ->> 'instance_status'
          else 'creating'
        end,
        'webhook_url', shown ->> 'webhook_url',
        'qr_code', shown ->> 'qr_code',
        'phone_number', shown ->> 'phone_number',
        'paired', case when shown ->> 'instance_status' in ('connected', 'disconnected') then true end
      )
    )
  )
  on conflict do nothing;
  return found;
end
$$;

comment on function sluice.import_instance(uuid, text, jsonb) is
  'For the owner only: takes an instance over from the set-up before us.';

-- Whether an instance's name is its user's own: `user_<id>`, or one that begins with it, as the old
-- set-up made them (`user_<id>_<milliseconds>`, `user_<id>_v2`), or with the bare id. And one that
-- the API can have.
create or replace function sluice.is_own_name(subject uuid, name text)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select coalesce(
    char_length(name) between 1 and 255
      and name !~ '[[:cntrl:]]'
      and (starts_with(name, 'user_' || subject) or starts_with(name, subject::text)),
    false
  )
$$;

-- For the owner only: writes down what is there, once: instances and queue rows at the first
-- migration, profiles at the first one that finds them. Reads without a lock. Called by
-- `sluice.adapt()`, before it changes anything.
create or replace function sluice.note_adoption()
returns void
language plpgsql
set search_path = ''
as $$
declare
  key constant name := sluice.profiles_key();
  was_seen constant boolean := exists (select from sluice.setting where name = 'instances_seen_at');
  instance record;
begin
  if not was_seen then
    -- Of several rows of one user, the one with the plainest name.
    for instance in
      select distinct on (shown.user_id)
        shown.user_id,
        shown.instance_name,
        to_jsonb(shown) as found
      from public.evolution_instances as shown
      where shown.user_id is not null
      order by shown.user_id, sluice.is_own_name(shown.user_id, shown.instance_name) desc, char_length(shown.instance_name)
    loop
      insert into sluice.adoption (subject, class, instance_name, made_at, held_back)
      values (
        instance.user_id,
        case
          when not sluice.is_own_name(instance.user_id, instance.instance_name) then 'foreign-name'
          when instance.found ->> 'instance_status' in ('connected', 'connecting', 'disconnected') then 'imported'
          else 'unfinished'
        end,
        instance.instance_name,
        (instance.found ->> 'created_at')::timestamptz,
        not sluice.is_own_name(instance.user_id, instance.instance_name)
      )
      on conflict do nothing;
      if sluice.is_own_name(instance.user_id, instance.instance_name) then
        perform sluice.import_instance(instance.user_id, instance.instance_name, instance.found);
      end if;
    end loop;

    insert into sluice.adoption as known (subject, class, retry_count, made_at, held_back)
    select distinct on (seen.user_id)
      seen.user_id,
      case
        when seen.status = 'pending' and seen.retry_count >= 3 then 'pending-spent'
        when seen.status = 'pending' then 'pending'
        when seen.status = 'processing' then 'stuck'
        when seen.status = 'failed' then 'failed'
        else 'gone'
      end,
      seen.retry_count,
      seen.created_at,
      true
    from (
      select
        queue.user_id,
        queue.status::text as status,
        coalesce((to_jsonb(queue) ->> 'retry_count')::integer, 0) as retry_count,
        (to_jsonb(queue) ->> 'created_at')::timestamptz as created_at
      from public.evolution_instance_creation_queue as queue
      where queue.user_id is not null
    ) as seen
    where (
        seen.status in ('processing', 'failed')
        or (
          seen.status = 'pending'
          and (seen.retry_count > 0 or coalesce(seen.created_at < now() - interval '5 minutes', true))
        )
        or not exists (select from public.evolution_instances as shown where shown.user_id = seen.user_id)
      )
      -- What is younger than the old set-up's own next round starts at once.
      and not (seen.status = 'pending' and seen.retry_count = 0 and coalesce(seen.created_at >= now() - interval '5 minutes', false))
    order by seen.user_id, seen.created_at desc
    on conflict (subject) do update
      set class = excluded.class,
        retry_count = excluded.retry_count,
        made_at = excluded.made_at,
        held_back = true
      where known.class <> 'foreign-name'
        and excluded.class <> 'gone';

    insert into sluice.setting (name, value, note)
    values ('instances_seen_at', now()::text, 'When instances and queue rows of the set-up before Sluice were written down.');
  end if;

  if key is not null and not exists (select from sluice.setting where name = 'profiles_seen_at') then
    perform sluice.note_older_users();
    if not was_seen then
      execute format(
        'update sluice.adoption
        set class = ''pending-orphan''
        where class in (''pending'', ''pending-spent'')
          and not exists (select from public.profiles where profiles.%I = adoption.subject)',
        key
      );
    end if;
    insert into sluice.setting (name, value, note)
    values ('profiles_seen_at', now()::text, 'When the profiles from before Sluice were written down.');
  end if;
end
$$;

comment on function sluice.note_adoption() is 'For the owner only: writes down once what was there before Sluice.';

-- For the owner only: users who have a profile and nothing else, now: they are older, and not
-- started without a word.
create or replace function sluice.note_older_users()
returns void
language plpgsql
set search_path = ''
as $$
begin
  execute format(
    'insert into sluice.adoption (subject, class, made_at, held_back)
    select distinct profiles.%1$I, ''older-users'', %2$s, false
    from public.profiles
    where profiles.%1$I is not null
      and not exists (select from public.evolution_instance_creation_queue as queue where queue.user_id = profiles.%1$I)
      and not exists (select from public.evolution_instances as shown where shown.user_id = profiles.%1$I)
      and not exists (
        select from sluice.run
        where run.subject = profiles.%1$I::text
          and run.workflow = ''provision-instance''
      )
    on conflict (subject) do nothing',
    sluice.profiles_key(),
    case
      when exists (
        select
        from pg_catalog.pg_attribute
        where attrelid = to_regclass('public.profiles')
          and attname = 'created_at'
          and not attisdropped
      ) then 'profiles.created_at::timestamptz'
      else 'null::timestamptz'
    end
  );
end
$$;

comment on function sluice.note_older_users() is 'For the owner only: writes down the users who have nothing.';

-- For the owner only: an old row that somebody sets to pending by hand starts. Not one whose
-- instance may be another tenant's: whoever may write the row must not decide that.
create or replace function sluice.release_adopted(subject uuid)
returns void
language sql
set search_path = ''
as $$
  update sluice.adoption
  set held_back = false, decision = 'sql', decided_at = now(), decided_by = sluice.actor()
  where adoption.subject = release_adopted.subject
    and adoption.held_back
    and adoption.class <> 'foreign-name'
$$;

comment on function sluice.release_adopted(uuid) is 'For the owner only: lets an old row start.';

-- How many users from before the adoption have nothing and wait for a word.
create or replace function sluice.older_sign_ups()
returns bigint
language sql
stable
security definer
set search_path = ''
as $$
  select count(*)
  from sluice.adoption
  where class = 'older-users'
    and decision is null
$$;

-- The adoption report: a row for each class that somebody is in. `open`: nobody has decided yet.
create or replace view sluice.adoption_report as
  select
    classes.class,
    count(*) as users,
    count(*) filter (where adoption.decision is null and classes.command is not null) as open,
    count(*) filter (where adoption.decision in ('start', 'allow', 'sql')) as started,
    count(*) filter (where adoption.decision = 'leave') as left_alone,
    min(adoption.made_at) as oldest,
    max(adoption.made_at) as newest,
    max(adoption.retry_count) as most_retries,
    classes.meaning,
    classes.command,
    array(
      select named.instance_name
      from sluice.adoption as named
      where named.class = classes.class
        and named.class = 'foreign-name'
        and named.decision is null
      order by named.instance_name
      limit 100
    ) as names
  from (
    values
      (1, 'imported', 'instances that are kept with name and token', null),
      (2, 'unfinished', 'instances that are kept, but never became ready', 'sluice adopt start unfinished'),
      (3, 'foreign-name', 'instances whose name is not their user''s own, and may be another tenant''s: not touched',
        'sluice adopt allow NAME'),
      (4, 'pending', 'queue rows that waited for more than five minutes', 'sluice adopt start pending'),
      (5, 'pending-spent', 'queue rows that waited, with all tries spent', 'sluice adopt start pending-spent'),
      (6, 'pending-orphan', 'queue rows that waited, of users without a profile', 'sluice adopt leave pending-orphan'),
      (7, 'stuck', 'queue rows that were being processed', 'sluice adopt start stuck'),
      (8, 'failed', 'queue rows that had failed', 'sluice adopt start failed'),
      (9, 'gone', 'completed queue rows of users without an instance', 'sluice adopt start gone'),
      (10, 'older-users', 'users with a profile and nothing else', 'sluice adopt start older-users')
  ) as classes (rank, class, meaning, command)
  join sluice.adoption
    on adoption.class = classes.class
  group by classes.rank, classes.class, classes.meaning, classes.command
  order by classes.rank;

-- A person's word: up to `most` users of the class who wait for one get a pending queue row.
-- Returns how many; call it until it is none. Users who went since are passed over, and are open no
-- more. Those whose row somebody has in hand stay open.
create or replace function sluice.adopt_start(class text, decided_by text, note text, most integer)
returns bigint
language plpgsql
security definer
set search_path = ''
set lock_timeout = '100ms'
as $$
declare
  free uuid[];
  chosen uuid[];
  there uuid[];
begin
  if class in ('imported', 'foreign-name', 'pending-orphan') then
    raise exception 'the class % cannot be started', class
      using errcode = 'SL002';
  end if;
  free := array(
    select queue.user_id
    from public.evolution_instance_creation_queue as queue
    join sluice.adoption on adoption.subject = queue.user_id
    where adoption.class = adopt_start.class
      and adoption.decision is null
    order by queue.user_id
    limit most
    for no key update of queue skip locked
  );
  chosen := array(
    select adoption.subject
    from sluice.adoption
    where adoption.class = adopt_start.class
      and adoption.decision is null
      and (
        adoption.subject = any (free)
        or not exists (
          select
          from public.evolution_instance_creation_queue as queue
          where queue.user_id = adoption.subject
        )
      )
    order by adoption.subject
    limit most
    for update skip locked
  );
  there := chosen;
  if sluice.profiles_key() is not null then
    execute format('select array(select profiles.%1$I from public.profiles where profiles.%1$I = any($1))', sluice.profiles_key())
    into there
    using chosen;
  end if;

  perform set_config('sluice.projecting', 'on', true);
  insert into public.evolution_instance_creation_queue as queue (user_id, status)
  select subject, 'pending'
  from unnest(there) as subject
  order by subject
  on conflict (user_id) do update
    set status = 'pending', retry_count = 0, error_message = null, updated_at = now();
  perform set_config('sluice.projecting', '', true);

  update sluice.adoption
  set held_back = false, decision = 'start', decided_at = now(), decided_by = adopt_start.decided_by
  where subject = any(chosen);
  if cardinality(chosen) > 0 then
    insert into sluice.audit (actor, action, detail)
    values (
      adopt_start.decided_by,
      'adopt.start',
      jsonb_strip_nulls(jsonb_build_object('class', class, 'users', cardinality(there), 'note', note))
    );
    perform sluice.wake_intake();
  end if;
  return cardinality(chosen);
end
$$;

-- A person's word: everybody of the class who waits for one is left alone, and reported as open no
-- more. SQL on a queue row is still a command. Returns how many.
create or replace function sluice.adopt_leave(class text, decided_by text, note text)
returns bigint
language plpgsql
security definer
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  left_alone bigint;
begin
  update sluice.adoption
  set decision = 'leave', decided_at = now(), decided_by = adopt_leave.decided_by
  where adoption.class = adopt_leave.class
    and adoption.decision is null;
  get diagnostics left_alone = row_count;
  if left_alone > 0 then
    insert into sluice.audit (actor, action, detail)
    values (
      adopt_leave.decided_by,
      'adopt.leave',
      jsonb_strip_nulls(jsonb_build_object('class', class, 'users', left_alone, 'note', note))
    );
  end if;
  return left_alone;
end
$$;

-- A person's word: this instance is its user's own, whatever it is called: it is taken over with
-- the token that its row has now, and a pending queue row of the user starts. Returns what came of
-- it: `allowed`, `unknown` (no open row of that name), `changed` (the user's row has another name
-- now), `taken` (another user has an instance of that name).
create or replace function sluice.adopt_allow(name text, decided_by text, note text)
returns text
language plpgsql
security definer
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  known sluice.adoption;
  found_row jsonb;
begin
  select *
  into known
  from sluice.adoption
  where adoption.class = 'foreign-name'
    and adoption.instance_name = adopt_allow.name
    and adoption.decision is distinct from 'allow'
  for update;
  if not found then
    return 'unknown';
  end if;
  select to_jsonb(shown)
  into found_row
  from public.evolution_instances as shown
  where shown.user_id = known.subject
    and shown.instance_name = adopt_allow.name;
  if not found then
    return 'changed';
  end if;
  if char_length(name) > 255 or name ~ '[[:cntrl:]]' or not sluice.import_instance(known.subject, name, found_row) then
    return 'taken';
  end if;

  update sluice.adoption
  set held_back = false, decision = 'allow', decided_at = now(), decided_by = adopt_allow.decided_by
  where subject = known.subject;
  insert into sluice.audit (actor, action, subject, detail)
  values (
    adopt_allow.decided_by,
    'adopt.allow',
    known.subject::text,
    jsonb_strip_nulls(jsonb_build_object('name', name, 'note', note))
  );
  perform sluice.wake_intake();
  return 'allowed';
end
$$;

-- For the owner only: keeps an owner's choice. Users who signed up while sign-ups were off are
-- older ones from then on.
create or replace function sluice.decide(name text, value text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if (name, value) not in (
    ('sign_up_trigger', 'on'),
    ('sign_up_trigger', 'off'),
    ('provision_when', 'created'),
    ('provision_when', 'confirmed'),
    ('provision_anonymous', 'on'),
    ('provision_anonymous', 'off')
  ) then
    raise exception '% cannot be %', name, value
      using errcode = 'SL002';
  end if;
  if (name, value) = ('sign_up_trigger', 'on')
    and exists (select from sluice.setting where (setting.name, setting.value) = ('sign_up_trigger', 'off'))
    and sluice.profiles_key() is not null
  then
    perform sluice.note_older_users();
  end if;
  insert into sluice.setting as setting (name, value, note)
  values (decide.name, decide.value, 'The owner''s choice, made with `sluice migrate`.')
  on conflict on constraint setting_pkey do update
    set value = excluded.value
    where setting.value <> excluded.value;
end
$$;

comment on function sluice.decide(text, text) is 'For the owner only: keeps an owner''s choice.';

-- With another tool than `sluice migrate`, which does this once all files are through: what was
-- there is written down, and the app's side is brought to what it should be.
do $$
begin
  if coalesce(current_setting('sluice.migrating', true), '') <> 'on' then
    perform sluice.adapt_and_tell();
  end if;
end
$$;
